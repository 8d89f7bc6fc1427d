# `make demo` runs the main job, `make test` the tests. Each makes the virtual environment it needs first.

VENV ?= .venv
export VENV

.PHONY: demo test install clean

demo: install
	scripts/demo

test: install
	scripts/test

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml scripts/setup
	scripts/setup

clean:
	rm -rf $(VENV) demo-out
