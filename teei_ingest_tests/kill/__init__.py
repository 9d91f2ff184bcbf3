"""`kill -9` of real processes, at random moments and at named points; then the same command again has to mend it."""
