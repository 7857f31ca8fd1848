"""What every HTTP port here needs: which addresses may be called, who is let in, how HTTP/1.1 is spoken. Nothing of what the ports
serve.
"""
