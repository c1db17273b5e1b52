// Fills the address of a new project from its name, until somebody types an address. Left empty, the server makes it.
document.addEventListener("DOMContentLoaded", () => {
  const name = document.getElementById("id_name");
  const slug = document.getElementById("id_slug");
  const from = (text) => text.normalize("NFKD").replace(/[^\x00-\x7f]/g, "").toLowerCase()
    .replace(/[^\w\s-]/g, "").replace(/[-\s]+/g, "-").replace(/^[-_]+|[-_]+$/g, "").slice(0, 70);
  let made = from(name.value); // a form that comes back refused has what was typed in it
  name.addEventListener("input", () => {
    if (slug.value && slug.value !== made) return; // it is theirs now
    slug.value = made = from(name.value);
  });
});
