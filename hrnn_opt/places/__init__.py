"""Where numbers lie: buffers of blocks and lanes, devices, and what backends do differently."""
