# Works from a folder of any name: every path is relative, since make splits absolute ones at spaces.

VENV = .venv/bin/python
# An inherited value too: PYTHON= names the Python for .venv, WHEELS= a folder to install from.
export PYTHON WHEELS
# Python must be free to keep what it compiled: without that every import takes three times as long.
export PYTHONDONTWRITEBYTECODE =
# A kernel is this environment's own, whichever the reader has installed for the user.
export JUPYTER_PREFER_ENV_PATH = 1
export PIP_DISABLE_PIP_VERSION_CHECK = 1
# Another project's modules and options.
unexport PYTHONHOME PYTHONINSPECT PYTHONOPTIMIZE PYTHONPATH PYTHONSAFEPATH PYTHONSTARTUP PYTHONUNBUFFERED PYTHONUSERBASE PYTHONWARNINGS

SET_UP = p=$${PYTHON:-$$(command -v python3 python3.13 python3.12 python3.11 | head -n 1)}; "$${p:-python3}" -I tools/set_up.py
TEST = $(VENV) -m pytest -n 2 --dist loadscope --no-loadscope-reorder
NBVAL = --nbval --nbval-current-env --nbval-sanitize-with tests/sanitize.cfg --nbval-cell-timeout 300

READERS = run lab fresh project cluster-check cluster cluster-down workshop wheels stop
MAINTAINERS = lint hooks lab-originals refresh exercises bench faults lock audit versions
.PHONY: help set-up set-up-maintainer set-up-browser clean distclean test test-all test-nightly pictures $(READERS) $(MAINTAINERS)

help:  ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | awk -F '|' '{ printf "%-22s%s\n", $$1, $$2 }'

set-up:
	@$(SET_UP)
set-up-maintainer:
	@$(SET_UP) --maintainer
set-up-browser:
	@$(SET_UP) --maintainer --browser
$(READERS): set-up
$(MAINTAINERS): set-up-maintainer
test pictures: set-up-browser

run:  ## Run the series; PARAMS="kernel=linear model_name=my-svc" changes it
	@$(VENV) -m helpers.series --params "$${PARAMS-}"
lab:  ## Open your copies of the notebooks, in my/, in JupyterLab
	@$(VENV) -m helpers.series.copies lab
fresh:  ## Begin anew: your copies are set aside, the originals copied again
	@$(VENV) -m helpers.series.copies fresh
project:  ## Write a small project of your own, with the pipeline for your data, to FOLDER=/path/to/churn
	@$(VENV) -m helpers.project "$${FOLDER-}"
cluster-check:  ## Send all pipelines and notebook 06 to your cluster; PACKAGES=1 needs no image, RECORD=1 renews README's table
	@$(VENV) -m helpers.cluster.check $${PACKAGES:+--packages} $${RECORD:+--record} --params "$${PARAMS-}"
cluster:  ## Make a cluster in Docker with kind, with all that the series needs, and check it; again is harmless
	@$(VENV) -m helpers.cluster.kind up $${PACKAGES:+--packages} $${RECORD:+--record} --params "$${PARAMS-}"
cluster-down:  ## Delete that cluster
	@$(VENV) -m helpers.cluster.kind down
workshop:  ## Start one MLflow server for a class; LEARNERS=30 says how many
	@$(VENV) -m helpers.workshop start --learners "$${LEARNERS:-30}"
wheels:  ## Collect all packages in wheels/ or FOLDER=...; elsewhere make run WHEELS=/path/to/it needs no internet
	@$(VENV) -m helpers.workshop wheels "$${FOLDER:-wheels}"
stop:  ## Stop the servers; their data stay
	@$(VENV) -m helpers.stack stop
clean:  ## Stop the servers and delete work/: their data, logs and executed notebooks
	@if [ ! -d work ]; then echo "There is no work/ to remove."; exit; fi; \
	if [ -x $(VENV) ]; then $(VENV) -m helpers.stack stop || exit 1; fi; \
	rm -rf work && echo "Removed work/: the servers' data and logs, and the executed notebooks."
distclean: clean  ## Delete .venv as well
	@rm -rf .venv && echo "Removed .venv/."

test:  ## Compare every stored output with a fresh run, and test the helpers
	@$(TEST) -m "not slow and not nightly" $(NBVAL) tests notebooks
test-all: test  ## The same, and what takes longer: notebooks alone, in another order and twice, every kind of fault
	@$(TEST) -m slow --durations 10 tests
test-nightly: test-all  ## The same, and what only multiplies: every order, every fault, a whole class
	@$(TEST) -m nightly --durations 10 tests
lint:  ## Format and check the code, notebooks too
	@$(VENV) -m ruff format && $(VENV) -m ruff check --fix
hooks:  ## Let Git run the formatter and the linter before each commit
	@$(VENV) -m pre_commit install
lab-originals:  ## Open the originals in JupyterLab
	@$(VENV) -m helpers.series.copies originals
refresh:  ## Execute the stored notebooks in place and compile the stored pipelines
	@$(VENV) -m helpers.series --refresh
	@$(VENV) -m tests.support.with_cluster $(VENV) -m helpers.series --refresh 06
	@$(VENV) -m helpers.series.exercises refresh
exercises:  ## Make the exercises anew out of their solutions
	@$(VENV) -m helpers.series.exercises generate
bench:  ## Measure the series against what people would use instead; takes hours; ROWS="servers sweep" takes less
	@$(VENV) -m tools.bench $${ROWS-}
faults:  ## Kill, fill up, cut off and interrupt, TRIES=5 times each, and count what was lost
	@$(VENV) -m tests.support.faults --tries "$${TRIES:-5}"
pictures:  ## Draw the diagrams and take the pictures of the MLflow UI anew
	@$(VENV) -m tools.draw && $(VENV) -m tools.pictures
lock:  ## Write both locks anew from the ranges of pyproject.toml; UPGRADE=1 takes newer versions
	@$(VENV) -m tools.lock $${UPGRADE:+--upgrade}
audit:  ## List known vulnerabilities of the versions in the locks; needs the internet
	@$(VENV) -m tools.audit
versions:  ## Run the series with the lowest versions, or RESOLUTION=highest, that pyproject.toml allows
	@$(VENV) -m tools.versions "$${RESOLUTION:-lowest-direct}" $${WITH:+--python "$$WITH"} $${RECORD:+--record}
