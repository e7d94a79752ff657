// Everything that has a tap's name on it opens it; then the parts are drawn.

document.documentElement.classList.add("scripted");
document
  .querySelectorAll("[data-open]")
  .forEach((button) => button.addEventListener("click", () => openTap(Number(button.dataset.open))));
showMap();
showGrowth();
