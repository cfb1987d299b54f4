"use strict";
(() => {
  const drawings = JSON.parse(document.getElementById("drawings").textContent);
  const root = document.documentElement;
  const narrow = matchMedia("(max-width: 640px)");
  const shown = new Map();

  // Figures name colours as CSS variables ("@ink"), so the style sheet alone decides them.
  function coloured(value, key, css) {
    if (Array.isArray(value)) return value.map((item) => coloured(item, key, css));
    if (value !== null && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, coloured(item, name, css)]));
    }
    const isColour = typeof value === "string" && value.startsWith("@") && /(color|bgcolor)$/.test(key);
    return isColour ? css.getPropertyValue("--" + value.slice(1)).trim() : value;
  }

  function draw(place, key) {
    const figure = coloured(drawings[key], "", getComputedStyle(root));
    const small = narrow.matches;
    figure.layout.height ??= small ? 400 : place.id === "plot-front" ? 520 : 400;
    figure.layout.dragmode = small ? false : "zoom";
    if (small) {
      figure.layout.margin = { l: 44, r: 8, t: 8, b: 44 };
      if (place.id === "plot-breakdown") figure.layout.yaxis.tickfont.size = 10;
    }
    const config = {
      responsive: true, displaylogo: false, displayModeBar: place.id === "plot-front" && !small, plotlyServerURL: "", showSendToCloud: false,
      modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
    };
    shown.set(place, key);
    return Plotly.react(place, figure.data, figure.layout, config);
  }

  const redraw = () => [...shown].forEach(([place, key]) => draw(place, key));
  for (const place of document.querySelectorAll("[data-drawing]")) draw(place, place.dataset.drawing);

  const axis = document.getElementById("front-axis");
  if (axis) axis.addEventListener("change", () => draw(document.getElementById("plot-front"), "front:" + axis.value));

  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  narrow.addEventListener("change", redraw);
  const paper = (on) => { root.classList.toggle("paper", on); redraw(); };
  const folded = [];
  addEventListener("beforeprint", () => {
    for (const part of document.querySelectorAll("details:not([open])")) { part.open = true; folded.push(part); }
    paper(true);
  });
  addEventListener("afterprint", () => { folded.splice(0).forEach((part) => { part.open = false; }); paper(false); });
  root.dataset.drawn = String(shown.size);
})();
