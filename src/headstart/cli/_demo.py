"""``headstart demo``"""
