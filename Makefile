# The only task runner. `make help` lists the targets.
.DEFAULT_GOAL := help
.PHONY: help setup demo notebook aws-local test check docs dist audit bench bench-serve contract image manifests program lock clean \
	lambda-model lambda-image lambda-package lambda-deploy lambda-update lambda-undeploy \
	lambda-shell lambda-clean

PYTHON ?= python3
BIN := .venv/bin
BASE_IMAGE ?= sagemaker-open-base
IMAGE ?= gam-model:latest
OVERLAY ?= overlays/production
MANIFESTS ?= build/manifests.yaml
PACKAGES := gam_model explainers container/toolkit container/server
LOCKS := container/base/requirements.txt $(wildcard container/requirements/*.txt)

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 17

demo: setup ## Train, deploy, predict and explain Gauss3 on this machine, without Docker or AWS
	@$(BIN)/python -m local_mode.notebook example.ipynb --save build/example.ipynb

notebook: setup ## Open the notebook in JupyterLab
	$(BIN)/pip install --quiet jupyterlab
	$(BIN)/jupyter lab example.ipynb

aws-local: setup ## Serve SageMaker's API on this machine, for any client, until Ctrl-C
	@$(BIN)/python -m local_mode

test: .venv/tests ## Run all tests; those that need Docker are left out where there is no engine
	@status=0; $(PARALLEL) || status=1; $(ALONE) || status=1; exit $$status

# The server's tests measure times, so they get the machine to themselves.
TIMED := tests/server tests/contract
PARALLEL = $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --no-loadscope-reorder \
	--durations 10 $(TIMED:%=--ignore %)
ALONE = $(BIN)/python -m pytest --durations 10 $(TIMED)

check: .venv/tests ## Check style, types, spelling and workflows
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell $$(git ls-files '*.md' '*.py' '*.yml' '*.yaml' '*.sh' '*.toml' Makefile)
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	$(BIN)/zizmor --offline --quiet .github
	@if command -v shellcheck >/dev/null; then shellcheck build_and_push.sh .ci/*; \
		else echo "shellcheck is not installed; the shell scripts were left out"; fi

docs: .venv/docs ## Build the documentation site in build/site, with executed notebooks
	@for notebook in $(NOTEBOOKS); do copy=build/$$(basename $$notebook); test $$copy -nt $$notebook || { \
		echo "Executing $$notebook"; $(BIN)/python -m local_mode.notebook $$notebook --save $$copy >$$copy.log 2>&1 \
		|| { tail -n 1 $$copy.log; rm -f $$copy; case $$notebook in $(NEEDS_DATA)) echo "The site gets it without output.";; \
		*) false;; esac; }; } || exit; done
	@mkdir -p build/docs && $(BIN)/sphinx-build --fail-on-warning --quiet -c docs build/docs build/site
	@echo "build/site/index.html"

# The last two read public data that this project may not pass on.
NOTEBOOKS := example.ipynb examples/credit.ipynb examples/income.ipynb examples/newsgroups/newsgroups.ipynb
NEEDS_DATA := examples/income.ipynb|examples/newsgroups/*

dist: ## Build the packages for a release in build/dist, and check them
	@rm -rf build/dist
	@$(PYTHON) -m venv build/tools
	@build/tools/bin/pip install --quiet --disable-pip-version-check 'build>=1.2,<2' \
		'setuptools>=77' 'twine>=6.1,<8'
	@for package in $(PACKAGES); do build/tools/bin/python -m build --no-isolation --outdir build/dist \
		$$package >/dev/null || exit; done
	@build/tools/bin/twine check --strict build/dist/*

audit: ## Look for known vulnerabilities in what goes into the images
	@$(PYTHON) -m venv build/tools
	@build/tools/bin/pip install --quiet --disable-pip-version-check 'pip-audit>=2.9,<3'
	build/tools/bin/pip-audit --no-deps --disable-pip $(foreach file,$(LOCKS),--requirement $(file))

bench: ## Fit the same rows with gam_model and its peers, and print the ratios
	@$(PYTHON) -m venv build/bench  # of its own: pyGAM holds scipy back
	@build/bench/bin/pip install --quiet --disable-pip-version-check \
		-r benchmarks/requirements.txt --editable gam_model
	build/bench/bin/python benchmarks/bench.py

bench-serve: ## Serve one model by our server and its peers, and print the ratios; needs wrk
	@$(PYTHON) -m venv build/bench-serve
	@build/bench-serve/bin/pip install --quiet --disable-pip-version-check \
		-r benchmarks/requirements-serve.txt --editable gam_model --editable container/toolkit --editable container/server
	@$(PYTHON) -m venv build/bench-mlserver  # of its own, for its pins
	@build/bench-mlserver/bin/pip install --quiet --disable-pip-version-check \
		-r benchmarks/requirements-mlserver.txt --editable gam_model --editable container/toolkit \
		|| rm -rf build/bench-mlserver
	build/bench-serve/bin/python benchmarks/bench_serve.py \
		$$(test -d build/bench-mlserver && echo --mlserver build/bench-mlserver/bin/python)

contract: .venv/tests ## Check any container: URL=http://..., or IMAGE=... MODEL=folder [BODY=file TYPE=...]
	$(BIN)/python -m pytest tests/contract/test_contract.py $(if $(URL),--url=$(URL)) \
		$(if $(filter-out file,$(origin IMAGE)),--image=$(IMAGE)) $(if $(filter-out file,$(origin MODEL)),--model=$(MODEL)) \
		$(if $(BODY),--body=$(BODY)) $(if $(TYPE),--content-type=$(TYPE))

image: ## Build the image for mode docker, on the open base
	docker build --platform linux/amd64 --tag $(BASE_IMAGE) container/base
	docker build --platform linux/amd64 --tag $(IMAGE) --file container/Dockerfile \
		--build-arg BASE_IMAGE=$(BASE_IMAGE) .

manifests: ## Render deploy/kubernetes/OVERLAY into the one file MANIFESTS
	@mkdir -p $(dir $(MANIFESTS))
	@if command -v kustomize >/dev/null; then build="kustomize build"; else build="kubectl kustomize"; fi; \
		$$build deploy/kubernetes/$(OVERLAY) >$(MANIFESTS).part && mv $(MANIFESTS).part $(MANIFESTS)
	@echo "$(MANIFESTS) is deploy/kubernetes/$(OVERLAY)"

program: ## Start a program of your own from one that works: NAME=churn, see docs/your-own-program.md
	@printf '%s' '$(NAME)' | grep -Eqx '[a-z][a-z0-9_]*' || { \
		echo "Name it by lower-case letters, digits and _, as in: make program NAME=churn"; false; }
	@! test -e code/$(NAME)_logic.py || { echo "code/$(NAME)_logic.py is there already"; false; }
	@set -e; for file in skeleton_logic.py:code skeleton_logic.in:container/requirements \
		skeleton_logic.apt:container/requirements test_skeleton_logic.py:tests/code skeleton.json:examples; do \
		made=$${file#*:}/$$(echo $${file%:*} | sed 's/skeleton/$(NAME)/'); \
		sed 's/skeleton/$(NAME)/g' examples/program/$${file%:*} >$$made; echo $$made; done

lock: setup ## Pin anew what goes into the images; or into that of one program, PROGRAM=churn
	$(BIN)/pip install --quiet uv
	$(if $(PROGRAM),,$(LOCK) container/base/requirements.in --output-file container/base/requirements.txt)
	for program in $(or $(PROGRAM:%=container/requirements/%_logic.in),container/requirements/*.in); do \
		$(LOCK) $(PACKAGES:%=%/pyproject.toml) $$program \
			--constraint container/base/requirements.txt --output-file $${program%.in}.txt; \
	done

LOCK = $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --no-annotate \
	--generate-hashes --custom-compile-command "make lock"

setup: .venv/setup ## Make the environment in .venv

# uv is quicker, where it is installed. Compiled, warnings of packages' syntax don't come up in tests.
INSTALL := $(if $(shell command -v uv),uv pip install --quiet --python $(BIN)/python \
	--compile-bytecode,$(BIN)/pip install --quiet --disable-pip-version-check --use-pep517)

.venv/setup: requirements.txt $(PACKAGES:%=%/pyproject.toml)
	@echo "Setting up .venv, once; this takes a minute or two."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed")'
	@$(PYTHON) -m venv .venv
# The toolkit compiles a helper for MPI, which nothing here uses; without it, no compiler is needed.
# Nor may a package without it stay in pip's cache.
	@CC=true $(INSTALL) --no-cache-dir --no-deps 'sagemaker-training>=5.1,<6'
	@$(INSTALL) -r requirements.txt $(PACKAGES:%=--editable %)
	@touch $@

.venv/tests: .venv/setup tests/requirements.txt
	@$(INSTALL) -r tests/requirements.txt
	@touch $@

.venv/docs: .venv/setup docs/requirements.txt
	@$(INSTALL) -r docs/requirements.txt
	@touch $@

# The model inside Lambda, see examples/credit.md. MODEL is a model.tar.gz, here or in S3.
MODEL ?= build/model.tar.gz
STAGE ?= production
LAMBDA ?= build/lambda
LAMBDA_IMAGE ?= credit-explainer-lambda:latest
LAMBDA_PYTHON ?= python3.12
UNFIT = $(MODEL) does not start inside Lambda, for the reason above. It must be a model of \
	credit_logic.py
ZAPPA = cd $(LAMBDA)/task && VIRTUAL_ENV=$(abspath $(LAMBDA)/venv) ../venv/bin/zappa

lambda-model: ## Put MODEL, the program and what it needs where the next two look for them
	rm -rf $(LAMBDA)
	mkdir -p $(LAMBDA)/task/code $(LAMBDA)/task/model
	case $(MODEL) in s3://*) aws s3 cp $(MODEL) - ;; *) cat $(MODEL) ;; esac \
		| tar -xzC $(LAMBDA)/task/model
	cp deploy/lambda/app.py deploy/lambda/events.py deploy/lambda/zappa_settings.json $(LAMBDA)/task
	cp code/credit_logic.py $(LAMBDA)/task/code
# Of the server, app.py imports only program.py, which needs no other package.
	cp -R explainers/src/explainers container/toolkit/src/program_toolkit \
		container/server/src/model_server $(LAMBDA)/task
# Without hashes, which would be asked of Zappa's dependencies too.
	sed -n 's/^\([a-zA-Z0-9].*[^ \\]\) *\\$$/\1/p' container/requirements/credit_logic.txt >$(LAMBDA)/constraints.txt
	printf 'numpy\norjson\n' >$(LAMBDA)/requirements.txt
	if grep -q '"model": "gam"' $(LAMBDA)/task/model/model.json; then \
		cp -R gam_model/src/gam_model $(LAMBDA)/task; echo scipy >>$(LAMBDA)/requirements.txt; fi
	find $(LAMBDA) -name __pycache__ -prune -exec rm -r {} +
	$(PYTHON) -m venv $(LAMBDA)/trial
	$(LAMBDA)/trial/bin/pip install --quiet --disable-pip-version-check --requirement $(LAMBDA)/requirements.txt
	@cd $(LAMBDA)/task && SAGEMAKER_PROGRAM=credit_logic.py ../trial/bin/python -B -c "import app" || { \
		rm -rf $(abspath $(LAMBDA)); echo "$(UNFIT)"; false; }
	rm -r $(LAMBDA)/trial

lambda-image: ## Build the container image LAMBDA_IMAGE for Lambda
	BUILDX_NO_DEFAULT_ATTESTATIONS=1 docker build --platform linux/amd64 \
		--build-arg PYTHON_IMAGE --tag $(LAMBDA_IMAGE) --file deploy/lambda/Dockerfile $(LAMBDA)

lambda-package: $(LAMBDA)/ready ## Build the zip that Zappa deploys
	$(ZAPPA) package $(STAGE) --output ../$(STAGE).zip

lambda-deploy: $(LAMBDA)/ready ## Make the function of STAGE and its URL, with Zappa
	$(ZAPPA) deploy $(STAGE)

lambda-update: $(LAMBDA)/ready ## Give the function of STAGE a new package
	$(ZAPPA) update $(STAGE)

lambda-undeploy: $(LAMBDA)/ready ## Remove the function of STAGE, its URL and its log
	$(ZAPPA) undeploy $(STAGE) --remove-logs --yes

lambda-shell: $(LAMBDA)/ready ## Open Python here with the model loaded as Lambda loads it
	cd $(LAMBDA)/task && SAGEMAKER_PROGRAM=credit_logic.py ../venv/bin/python -i -c "import app"

lambda-clean: ## Remove what the targets above built
	rm -rf $(LAMBDA)

# The zip gets the packages of venv/, so it has Lambda's own Python, and no more in it.
$(LAMBDA)/ready: $(LAMBDA)/requirements.txt
	$(LAMBDA_PYTHON) -m venv $(LAMBDA)/venv
	$(LAMBDA)/venv/bin/pip install --quiet --disable-pip-version-check zappa==0.63.0 setuptools \
		--requirement $< --constraint $(LAMBDA)/constraints.txt
	@touch $@

$(LAMBDA)/requirements.txt:
	@echo "There is no model for Lambda yet: run 'make lambda-model MODEL=...' first"; false

clean: ## Remove .venv and build
	rm -rf .venv build
