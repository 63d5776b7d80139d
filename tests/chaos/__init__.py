"""A run is disturbed in every way that a machine can think of, and must end as if it had not been.

    make chaos MINUTES=30

starts a cluster of three hosts on this machine and runs a toy grid on it again and again, while a
seeded hand draws faults from a deck: see `faults.py`. A reader looks at the run folder all the
time, as somebody in another terminal would. What must hold is in `watch.py` and `verify.py`.

Where this is root's machine and namespaces are allowed, every host has its own network, processes
and temporary files, and the whole lab vanishes with its first process, however that ends.
Elsewhere the hosts are loopback addresses, and the faults that need more are skipped, by name.
"""
