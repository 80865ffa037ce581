"""What `healctl install` writes: units of systemd that fit a configuration, and what shells and man(1) read."""
