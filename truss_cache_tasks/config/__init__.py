"""config.yaml and the environment -> Entry, Settings, Credential."""
