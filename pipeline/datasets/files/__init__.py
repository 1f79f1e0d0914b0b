"""How raw files are opened without trust: HDF5, .npy and .npz, NetCDF 3, zip archives."""
