"use strict";
// The page is whole without this. With it, it keeps itself fresh, and asks before it ends a session.
document.addEventListener("submit", (event) => {
  const question = event.target.dataset.question;
  if (question && !confirm(question)) event.preventDefault();
});
const refresh = document.getElementById("refresh");
refresh.parentElement.hidden = false;
refresh.checked = sessionStorage.getItem("refresh") === "yes";
refresh.addEventListener("change", () => {
  sessionStorage.setItem("refresh", refresh.checked ? "yes" : "no");
});
setInterval(async () => {
  if (!refresh.checked || document.hidden) return;
  try {
    const answer = await fetch(location.href, { redirect: "error" });
    if (!answer.ok) return;
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const part of document.querySelectorAll("[data-live]")) {
      const other = fresh.getElementById(part.id);
      const isInUse = part.contains(document.activeElement) || part.querySelector("details[open]");
      if (other && !isInUse) part.replaceWith(document.adoptNode(other));
    }
  } catch { /* It is tried again. */ }
}, 10000);
