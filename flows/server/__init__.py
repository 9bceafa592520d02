"""The Prefect installation that runs the flows: starting it, deploying to it, guarding it, and looking whether it works."""
