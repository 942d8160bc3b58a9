#!/usr/bin/env bash
# Makes the clips of the decode bench: a moving test pattern with a fractal zoom in it and noise over
# both, 45 s at 30 frames per second.
#     clips.sh DIR
set -euo pipefail
out=$1
mkdir -p "$out"
for size in 360p:640:360 720p:1280:720; do
  IFS=: read -r name width height <<<"$size"
  base=$out/base-$name.mkv
  for gop in 30 250; do
    for b in 0 3; do
      suffix=$([ "$b" = 0 ] || echo -bframes)
      file=$out/$name-gop$gop$suffix.mp4
      [ -s "$file" ] && continue
      if [ ! -s "$base" ]; then
        ffmpeg -v error -y -f lavfi -i "testsrc2=s=${width}x$height:r=30" \
          -f lavfi -i "mandelbrot=s=$((width / 2))x$((height / 2)):r=30:maxiter=200" \
          -filter_complex "[0][1]overlay=x=(W-w)/2+100*sin(t):y=(H-h)/2,noise=alls=4:allf=t,format=yuv420p" \
          -t 45 -c:v libx264 -preset ultrafast -qp 0 "$base.part.mkv"
        mv "$base.part.mkv" "$base"
      fi
      ffmpeg -v error -y -i "$base" -c:v libx264 -preset medium -crf 23 \
        -x264-params "keyint=$gop:min-keyint=$gop:scenecut=0:bframes=$b" "$file.part.mp4"
      mv "$file.part.mp4" "$file"
    done
  done
  rm -f "$base"
done
