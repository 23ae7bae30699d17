"""The code interpreter's server: what E2B's SDKs for it ask for on port 49999.

- `__main__.py`: starts it.
- `server.py`: the routes, and the lines that an execution is told in.
- `agent.py`: the guest agent, which knows the sandbox's environment and who may run code.
- `contexts.py`: contexts, each with a kernel, and the executions in them, one at a time.
- `kernel.py`: what a kernel is, and how it is spoken to. `python.py` has Python's, `shell.py` bash's.
- `zygote.py`: the process that Python's kernels are forks of; it has imported what takes long.
- `ipython.py`: Python's kernel itself, in a process of its own. `charts.py` and `frames.py` tell it what a figure and a table show,
  `mime.py` what of it is a result's.
"""
