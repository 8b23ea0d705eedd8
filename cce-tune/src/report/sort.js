document.querySelectorAll("table.sortable").forEach(function (table) {
  var body = table.tBodies[0];
  table.querySelectorAll("th button").forEach(function (button) {
    button.addEventListener("click", function () {
      var head = button.parentNode;
      var up = head.getAttribute("aria-sort") !== "ascending";
      table.querySelectorAll("th").forEach(function (other) { other.removeAttribute("aria-sort"); });
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      var key = function (row) {
        var cell = row.cells[head.cellIndex];
        return cell.hasAttribute("data-v") ? Number(cell.getAttribute("data-v")) : cell.textContent;
      };
      Array.from(body.rows).sort(function (a, b) {
        var x = key(a), y = key(b), n = typeof x === "number", m = typeof y === "number";
        var order = n !== m ? (n ? -1 : 1) : n ? x - y : x.localeCompare(y, undefined, { numeric: true });
        return n !== m ? order : up ? order : -order;
      }).forEach(function (row) { body.appendChild(row); });
    });
  });
});
