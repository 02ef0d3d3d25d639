"""The 3-layer student of all-MiniLM-L6-v2: its training texts, its training, its checkpoint.

Only `train` and what it alone imports (`batches`, `encoder`, `objective`) need torch.
"""
