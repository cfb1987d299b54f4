"""The report of a search run: its record on disk, one offline HTML page, and a static picture of the front."""
