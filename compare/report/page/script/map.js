// The map's keys: one cell can be reached by Tab, the arrow keys go from there, Enter and a click open.

const MOVES = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

/** The button of a column; a stage of no block has one wide cell, under every block. */
function buttonIn(row, column) {
  const cell = row.cells.length === 2 ? row.cells[1] : row.cells[column];
  return cell.querySelector("button");
}

/** The next cell with a tap in it, in that direction. */
function next(table, row, column, [down, right]) {
  const { rows } = table.tBodies[0], width = table.tHead.rows[0].cells.length;
  let [y, x] = [row + down, column + right];
  while (y >= 0 && y < rows.length && x >= 1 && x < width) {
    const found = buttonIn(rows[y], x);
    if (found && found !== document.activeElement) return found;
    [y, x] = [y + down, x + right];
  }
  return null;
}

function showMap() {
  const table = document.querySelector(".grid");
  let column = 1; // kept while one goes through wide cells
  const enter = (button) => {
    table.querySelectorAll('[tabindex="0"]').forEach((one) => one.setAttribute("tabindex", "-1"));
    button.setAttribute("tabindex", "0");
    const cell = button.closest("td");
    if (cell.colSpan === 1) column = cell.cellIndex;
  };
  table.addEventListener("focusin", (event) => enter(event.target));
  table.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) openTap(Number(button.dataset.tap));
  });
  table.addEventListener("keydown", (event) => {
    if (!MOVES[event.key]) return;
    const row = event.target.closest("tr").sectionRowIndex;
    next(table, row, column, MOVES[event.key])?.focus();
    event.preventDefault();
  });
}
