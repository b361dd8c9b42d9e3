"""The shells around a run: its replicas, one of them as an environment, N of them as a vector environment."""
