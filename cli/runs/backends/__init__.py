"""Where the trainings of a study run: processes of this machine, a Ray cluster, or jobs of Slurm."""
