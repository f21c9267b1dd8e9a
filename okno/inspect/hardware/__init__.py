"""What this machine is: probes, each split into running a program and parsing what it said."""
