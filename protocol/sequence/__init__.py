"""What was said, drawn: entries of a conversation, and sequence diagrams of them as text, Mermaid and SVG.

Conformance reports and ``scalercli trace`` draw with it; ``pages`` has the frame and the style of their HTML pages.
"""

from pathlib import Path

PAGES = Path(__file__).with_name("pages")
