"""llama.cpp is started before a test module imports torch.

Both ask the kernel for AMX; once torch has it, llama.cpp uses it too, and its quantised products
die where the compiler is old (okno/engines/amx.py).
"""

from okno.engines.llama_model import start_backend

start_backend()
