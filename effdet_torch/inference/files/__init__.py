"""What `effdet-detect` does: images, videos and cameras in; lines, JSON, pictures and videos out."""
