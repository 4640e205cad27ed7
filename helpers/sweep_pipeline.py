"""Compile the pipeline that tries many settings: ``python -m helpers.sweep_pipeline``."""

import runpy

if __name__ == "__main__":
    runpy.run_module("helpers.pipelines.sweep_pipeline", run_name="__main__")
