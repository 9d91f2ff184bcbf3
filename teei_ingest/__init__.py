"""CSR data from seven systems, redacted before it is kept."""
