"""Text at scale: tokenised once by several processes, packed into full rows, read from memory-mapped shards."""
