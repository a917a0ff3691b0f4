//! DHCPv4 and PXE server: codec, sans-IO machine, sockets
