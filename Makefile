# Works from a folder of any name: every path is relative, since make splits absolute ones at spaces.

PYTHON ?=
VENV = .venv/bin/python

# Python must be free to keep what it compiled: without that every import takes three times as long.
export PYTHONDONTWRITEBYTECODE =
# A kernel is this environment's own, whichever the reader has installed for the user.
export JUPYTER_PREFER_ENV_PATH = 1
export PIP_DISABLE_PIP_VERSION_CHECK = 1

NBVAL = --nbval --nbval-current-env --nbval-sanitize-with tests/sanitize.cfg --nbval-cell-timeout 300

.PHONY: help run test test-all lab bench faults pictures refresh exercises cluster-check workshop wheels stop clean distclean FORCE

help:  ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | awk -F '|' '{ printf "%-22s%s\n", $$1, $$2 }'

run: .venv/stamp  ## Run the series; PARAMS="kernel=linear model_name=my-svc" changes it
	@$(VENV) -m helpers.series --params "$${PARAMS-}"

test: .venv/stamp  ## Compare every stored output with a fresh run, and test the helpers
	@sh tests/support/install_chromium.sh
	@$(VENV) -m pytest -n 2 --dist loadscope -m "not slow" $(NBVAL) tests notebooks

test-all: test  ## The same, and every notebook alone, in reverse order and twice in a row, and every fault once
	@$(VENV) -m pytest -n 2 --dist loadscope -m slow --durations 10 tests

lab: .venv/stamp  ## Open the series in JupyterLab
	@PATH="$$PWD/.venv/bin:$$PATH" $(VENV) -m jupyterlab --ServerApp.root_dir=. \
	  --LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb

bench: .venv/stamp  ## Measure the series against what people would use instead; takes hours; ROWS="servers sweep" takes less
	@$(VENV) -m tools.bench.uploaders
	@$(VENV) -m tools.bench.learners
	@$(VENV) -m tools.bench.fits
	@$(VENV) -m tools.bench.breakdown
	@$(VENV) -m tools.bench.scaling
	@$(VENV) -m tools.bench.ratios $${ROWS-}

faults: .venv/stamp  ## Kill, fill up, cut off and interrupt, TRIES=5 times each, and count what was lost
	@$(VENV) -m tests.support.faults --tries "$${TRIES:-5}"

pictures: .venv/stamp  ## Draw the diagrams and take the pictures of the MLflow UI anew
	@sh tests/support/install_chromium.sh
	@$(VENV) -m tools.draw
	@$(VENV) -m tools.pictures

refresh: .venv/stamp  ## Execute the stored notebooks in place and compile the stored pipeline
	@$(VENV) -m helpers.series --refresh 00 01 02 03 04 05 07 08 09 describe_data
	@$(VENV) -m tests.support.with_cluster $(VENV) -m helpers.series --refresh 06
	@$(VENV) -m helpers.exercises refresh

exercises: .venv/stamp  ## Make the exercises anew out of their solutions
	@$(VENV) -m helpers.exercises generate

cluster-check: .venv/stamp  ## Run notebook 06 against the cluster at KF_PIPELINES_ENDPOINT
	@$(VENV) -m helpers.series 06 --params "$${PARAMS-}"

workshop: .venv/stamp  ## Start one MLflow server for a class; LEARNERS=30 says how many
	@$(VENV) -m helpers.workshop start --learners "$${LEARNERS:-30}"

wheels: .venv/stamp  ## Collect all packages in wheels/ or FOLDER=...; elsewhere make run WHEELS=/path/to/it needs no internet
	@$(VENV) -m helpers.workshop wheels "$${FOLDER:-wheels}"

.PHONY: lock audit versions
lock: .venv/stamp  ## Write requirements.lock anew from the ranges of pyproject.toml; UPGRADE=1 takes newer versions
	@$(VENV) -m tools.lock $${UPGRADE:+--upgrade}

audit: .venv/stamp  ## List known vulnerabilities of the versions in the lock; needs the internet
	@$(VENV) -m tools.audit

versions: .venv/stamp  ## Run the series with the lowest versions, or RESOLUTION=highest, that pyproject.toml allows
	@$(VENV) -m tools.versions "$${RESOLUTION:-lowest-direct}" $${WITH:+--python "$$WITH"} $${RECORD:+--record}

stop: .venv/stamp  ## Stop the servers; their data stay
	@$(VENV) -m helpers.stack stop

clean:  ## Stop the servers and delete work/: their data, logs and executed notebooks
	@if [ -d work ]; then \
	  if [ -x $(VENV) ]; then $(VENV) -m helpers.stack stop || exit 1; fi; \
	  rm -rf work && echo "Removed work/: the servers' data and logs, and the executed notebooks."; \
	else echo "There is no work/ to remove."; fi

distclean: clean  ## Delete .venv as well
	@rm -rf .venv && echo "Removed .venv/."

# --- set-up ----------------------------------------------------------------------------------------

# The stamp holds the folder for which .venv was made. A copied or moved checkout, or a Python that
# has gone, makes the set-up run again.
ifneq ($(shell { $(VENV) -c "" && cat .venv/stamp; } 2>/dev/null),$(shell pwd -P))
.venv/stamp: FORCE
endif

.venv/stamp: requirements.lock pyproject.toml
	@if [ -n "$${WHEELS-}" ] && [ ! -d "$$WHEELS" ]; then \
	  echo "WHEELS=$$WHEELS is no folder. make wheels FOLDER=... makes one, where there is internet." >&2; exit 1; fi
	@if [ -f .venv/stamp ] && [ "$$(cat .venv/stamp)" != "$$(pwd -P)" ]; then :; \
	elif $(VENV) -m pip --version >/dev/null 2>&1; then exit 0; fi; \
	usable='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'; bare=; \
	for python in $(PYTHON) python3 python3.13 python3.12 python3.11; do \
	  $$python -c "$$usable" >/dev/null 2>&1 || continue; \
	  if ! $$python -c 'import ensurepip, venv' >/dev/null 2>&1; then bare=$${bare:-$$python}; continue; fi; \
	  echo "Making .venv with $$($$python --version) ..."; \
	  exec $$python -m venv --clear .venv; \
	done; \
	if [ -n "$$bare" ]; then \
	  echo "$$($$bare --version) lacks its venv module. On Debian or Ubuntu: sudo apt-get install python3-venv" >&2; \
	else echo "Python 3.11, 3.12 or 3.13 is needed. Install one, or name it: make PYTHON=/path/to/python3.12" >&2; fi; \
	exit 1
	@echo "Installing the packages of requirements.lock ..."
# What pip was told of a mirror, uv is told too. With a folder of wheels neither asks anybody.
	@sed -n '/^uv==/,/[^\\]$$/p' requirements.lock > .venv/uv.txt
	@set --; if [ -n "$${WHEELS-}" ]; then set -- --no-index --find-links "$$WHEELS"; \
	elif [ -z "$${UV_DEFAULT_INDEX-}$${UV_INDEX_URL-}" ]; then \
	  index=$$($(VENV) -m pip config list | sed -n "s/^[^ ]*\.index-url='\(.*\)'$$/\1/p" | tail -n 1); \
	  if [ -n "$$index" ]; then export UV_DEFAULT_INDEX="$$index"; fi; \
	fi; \
	if { $(VENV) -m pip install --quiet "$$@" --require-hashes -r .venv/uv.txt && \
	  $(VENV) -m uv pip install --python $(VENV) "$$@" --require-hashes -r requirements.lock; } >.venv/uv.log 2>&1; \
	then exit 0; fi; \
	if grep -qiE 'hash(es)? mismatch|do not match the hashes' .venv/uv.log; then \
	  cat .venv/uv.log >&2; \
	  echo "A package is not the one that requirements.lock names, so nothing more is installed. Try another" \
	    "network or mirror; if it goes on, report it." >&2; exit 1; \
	fi; \
	if [ -n "$${WHEELS-}" ]; then cat .venv/uv.log >&2; \
	  echo "The folder WHEELS=$$WHEELS lacks a package: run make wheels on a machine of this kind, with the same" \
	    "Python ($$($(VENV) --version)), and bring its folder here." >&2; exit 1; fi; \
	echo "uv could not do it (.venv/uv.log says why): pip does, which takes some minutes ..."; \
	$(VENV) -m pip install --quiet --require-hashes -r requirements.lock
	@echo "Installing the helpers of the series ..."
	@$(VENV) -m pip install --quiet --no-deps --no-build-isolation -e .
	@printf %s "$$(pwd -P)" > .venv/stamp
