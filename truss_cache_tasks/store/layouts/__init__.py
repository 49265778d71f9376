"""The layouts: how the paths of a cache root show its blobs.

layout                         CacheRoot, and the protocol of a layout
hub_layout, refs, flat_layout  the two layouts; the refs of the first
blob                           LocalBlob, a verified file on this disk, and how it gets another name
"""
