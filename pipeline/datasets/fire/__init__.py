"""What the fire data sets share: layouts of files, environments; and the simulated plume."""
