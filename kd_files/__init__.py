"""Files and folders that are read whole or refused by name, and written whole or not at all.

The one way to the disk for everything that is written and read again, and to what installed distributions declare. It
knows neither distillation nor agents.
"""
