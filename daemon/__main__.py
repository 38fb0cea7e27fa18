"""`python -m daemon`."""

import os

# A daemon starts processes while gRPC is at work: its fork handlers would only say that they do nothing.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

from daemon.cli import main

if __name__ == "__main__":
    main()
