// Light or dark as the system says, or as `?theme=` says for this page; `?dir=rtl` mirrors it for a look.

const wanted = new URLSearchParams(location.search);
const theme = wanted.get("theme");
if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
if (wanted.get("dir") === "rtl") document.documentElement.dir = "rtl";
