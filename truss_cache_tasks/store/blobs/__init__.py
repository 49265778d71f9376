"""Blobs before they are shown, and the space that they take.

partials     files that are being fetched, with their journals
local_blobs  files of a plan that are on this disk already
demand       what a fetch takes on the disk
space        its reservation
"""
