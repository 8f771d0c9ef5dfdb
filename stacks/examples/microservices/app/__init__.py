"""A small application in six services: which price makes the most money?"""
