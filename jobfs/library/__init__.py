"""The job table as a part of a trio program: what `import jobfs` offers. See docs/library.md."""
