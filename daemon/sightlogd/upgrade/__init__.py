"""What the installer (systemd/install.sh) asks of a version about the configuration and the database that are there."""
