"""One stage each: fingerprint the inputs, skip if the artifact is complete, else do the work and write it."""
