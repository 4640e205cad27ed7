"""The pipelines, each collected from cells of the notebooks by ``make refresh``: change the cells."""
