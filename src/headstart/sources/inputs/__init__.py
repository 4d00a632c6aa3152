"""sources/inputs."""
