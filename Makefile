# What .ci/run runs, one target each, in an environment of your own; tests/test_habits.py holds them to the same commands.
.PHONY: install test lint types docs ci coverage picture

install:
	pip install -c constraints.txt -e ".[test]"

test:
	pytest

lint:
	ruff check .
	ruff format --check .

types:
	mypy examples/plugin/kd_env_example
	mypy kd_files kd_env agents cli train_agent.py

# The documentation site, into site/; warnings are errors.
docs:
	mkdocs build --strict

# All of them in a fresh virtual environment, and the main job.
ci:
	.ci/run

# The tests once more, with a table of the lines that they ran; slower than they are alone.
coverage:
	pytest --cov

picture:
	python -m docs.house
