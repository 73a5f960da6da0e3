// Adds what paper cannot: values under the pointer, and runs switched off. The page reads the same without it.
(function () {
  "use strict";
  var tip = document.getElementById("tip");
  var off = new Set();
  document.querySelectorAll(".legend button").forEach(function (button) {
    button.addEventListener("click", function () {
      var run = button.dataset.run;
      if (off.has(run)) off.delete(run); else off.add(run);
      button.setAttribute("aria-pressed", String(!off.has(run)));
      document.querySelectorAll("svg.chart [data-run='" + run + "']").forEach(function (part) {
        part.classList.toggle("off", off.has(run));
      });
    });
  });
  document.querySelectorAll("svg.chart[data-hover]").forEach(function (svg) {
    var data = JSON.parse(svg.dataset.hover);
    var line = document.createElementNS("http://www.w3.org/2000/svg", "line");
    line.setAttribute("class", "pointer off");
    line.setAttribute("y1", data.top);
    line.setAttribute("y2", data.bottom);
    svg.appendChild(line);
    function leave() {
      tip.hidden = true;
      line.classList.add("off");
    }
    svg.addEventListener("pointerleave", leave);
    svg.addEventListener("pointermove", function (event) {
      var box = svg.getBoundingClientRect();
      var x = (event.clientX - box.left) * svg.viewBox.baseVal.width / box.width;
      var nearest = 0;
      data.x.forEach(function (at, index) {
        if (Math.abs(at - x) < Math.abs(data.x[nearest] - x)) nearest = index;
      });
      if (!data.x.length || x < data.x[0] - 20) return leave();
      line.classList.remove("off");
      line.setAttribute("x1", data.x[nearest]);
      line.setAttribute("x2", data.x[nearest]);
      tip.textContent = "";
      var head = document.createElement("b");
      head.textContent = data.l[nearest];
      tip.appendChild(head);
      data.rows.forEach(function (row) {
        if (off.has(String(row.run)) || !row.v[nearest]) return;
        var item = document.createElement("span");
        item.append(row.name, Object.assign(document.createElement("strong"), { textContent: row.v[nearest] }));
        tip.appendChild(item);
      });
      tip.hidden = false;
      var left = event.pageX + 16;
      if (left + tip.offsetWidth > window.scrollX + document.documentElement.clientWidth) left = event.pageX - tip.offsetWidth - 16;
      tip.style.left = Math.max(0, left) + "px";
      tip.style.top = event.pageY + 12 + "px";
    });
  });
})();
