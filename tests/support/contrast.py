"""The contrast of a text with what is behind it, as the page draws it."""

from __future__ import annotations

# WCAG 2: relative luminance, colours laid over what is behind them.
CONTRAST = """(element) => {
  const parts = (colour) => {
    const canvas = Object.assign(document.createElement("canvas"), {width: 1, height: 1});
    const context = canvas.getContext("2d", {willReadFrequently: true});
    context.fillStyle = colour;
    context.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = context.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3]));
  const light = (colour) => {
    const [r, g, b] = colour.map((part) => {
      const c = part / 255;
      return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const layers = [];
  for (let e = element; e; e = e.parentElement) layers.push(parts(getComputedStyle(e).backgroundColor));
  const behind = layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255]);
  const front = over(parts(getComputedStyle(element).color), behind);
  const [x, y] = [light(front), light(behind)].sort((a, b) => b - a);
  return (x + 0.05) / (y + 0.05);
}"""
