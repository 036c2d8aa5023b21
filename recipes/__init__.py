"""The recipes that ship with helium-edge: data only, one YAML file each."""
