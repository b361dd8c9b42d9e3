"""What agents share: the contract, rollouts, networks, files."""
