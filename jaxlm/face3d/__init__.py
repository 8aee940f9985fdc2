"""FIXME jaxlm/face3d"""
