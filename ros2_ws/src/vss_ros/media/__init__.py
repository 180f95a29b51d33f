"""What is seen: decoding, drawing, camera models, bags, videos, files."""
