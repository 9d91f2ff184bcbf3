"""What the proofs are measured against: scripts without an import of ours, run in an environment of their own."""
