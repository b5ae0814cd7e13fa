"""The v3 services: check, call the member, map errors, fill headers.

Handlers take request bytes and answer bytes through ``api.port``; which transport carries them they
do not know.
"""
