"""Fetch the weights once, and only the right ones: run it beside handler.py before the build."""

import hashlib
import urllib.request
from pathlib import Path

URL, SHA256 = "https://models.example.com/model-3.pt", "0" * 64
FILE = Path(__file__).with_name("model.pt")  # load() takes it from there

if not FILE.exists() or hashlib.sha256(FILE.read_bytes()).hexdigest() != SHA256:
    data = urllib.request.urlopen(URL).read()
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise SystemExit(f"{URL} is not the file with SHA-256 {SHA256}")
    FILE.write_bytes(data)
